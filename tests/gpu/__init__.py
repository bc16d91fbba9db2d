"""What only a GPU can show, and its rehearsal: ``pytest -m gpu`` needs a GPU and nothing else; without one the same tests run in the interpreter.

Every test takes the ``device`` fixture: a CUDA or ROCm device with kernels that are compiled and real sizes, or the CPU with interpreted kernels and
small ones. What has no meaning on the CPU (a captured graph) is skipped there and says what stands in for it.
"""
