"""Data-parallel training over MPI: how it scales here, and what a model of its cost says about more ranks."""
