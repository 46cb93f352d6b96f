"""Everything that needs a GPU, in one command: `python -m bench.gpu_check --help`, or `make gpu-check`.

`__main__` runs the steps, each a process with a limit of its own; `tiny` is the program that compute-sanitizer watches,
`card` measures the GPU, `jobs` the benchmark's jobs on it.
"""
