"""The target `local`: this host. Raw disk files below one directory, and machines that QEMU runs."""
