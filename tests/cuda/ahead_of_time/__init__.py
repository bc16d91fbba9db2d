"""What nvcc makes of the CUDA kernels, for GPUs that are not here: ``python -m tests.cuda.ahead_of_time --help``.

``rules`` says what must hold of which kernel, ``compiling`` makes the binaries and reads them, ``report`` keeps and compares the table
``bench/cuda_ahead_of_time.md``.
"""
