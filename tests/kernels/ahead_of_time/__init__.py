"""What the compilers make of the kernels, for GPUs that are not here: ``python -m tests.kernels.ahead_of_time --help``.

``cases`` says what is compiled and what must hold of it, ``resources`` reads it out of the binaries, ``report`` keeps and compares the
table ``bench/ahead_of_time.md``.
"""
