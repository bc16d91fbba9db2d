"""CUDA kernels without a GPU: ``csrc/cuda`` compiled for the host by the emulator of this folder (see ``emulator.h``)."""
