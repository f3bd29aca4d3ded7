"""Custom ops with fast kernels; its modules import torch, numpy, scipy, Triton and one another.

Nothing but this text belongs in this file: with the repository's root on `sys.path`, libraries
that look for a package named `kernels` find it and import it.
"""
