"""Everything that depends on names that PyTorch does not document.

A new release of PyTorch can change these names. No other part of the package uses one, so this is
the only place to look at then.
"""
