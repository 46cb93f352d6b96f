"""`python -m tracin`, which torchrun starts too: `torchrun --nproc-per-node 2 -m tracin run ...`."""

from tracin.cli import main

main(prog_name="tracin")
