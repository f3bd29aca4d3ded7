"""Custom ops with fast kernels; each module is a leaf that imports only torch, numpy and scipy.

Nothing but this text belongs in this file: with the repository's root on `sys.path`, libraries
that look for a package named `kernels` find it and import it.
"""
