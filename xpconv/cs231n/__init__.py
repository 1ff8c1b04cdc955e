"""The modules and names of CS231n's assignment 2, for arrays of any backend.

In a notebook of the course ``from cs231n.layers import *`` becomes ``from xpconv.cs231n.layers import *``, and so on
for the other modules; nothing else changes. On another device run the same notebook after `xpconv.set_backend` with
data made by `xpconv.asarray`: the arrays that are passed in decide where a function computes, and networks keep their
parameters on the default backend.

The naive functions of `layers` are loops straight from the definitions, to read and to check others with; those of
`fast_layers` run on `xpconv.functional`. Conventions are the course's: parameters in dictionaries, a cache for the
backward pass, biased variances, a momentum that weighs the old value, dropout by the probability of keeping. Numbers
are drawn from NumPy's global generator, so that ``np.random.seed`` repeats what the course prints.
"""
