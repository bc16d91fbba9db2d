"""Triton source of fastpref's GPU kernels; importing this package imports nothing, its modules import torch and triton only."""
