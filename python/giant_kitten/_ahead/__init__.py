"""Copying ahead: weights of the shared tier are read from slots of a ring in dedicated memory.

The library copies each weight into a slot before its turn. Here the weight is lent while its module
runs: the parameter gets the memory of the slot, and afterwards its own memory back. `passes.py`
asks the library what to lend in a pass, `finding.py` finds the weights of a module that may be
lent, and `hooks.py` lends them around the calls of their modules. `weight.py` is one weight,
`slot.py` a view of the memory that it is lent, and `held.py` has the slots that somebody still
holds a view of.
"""
