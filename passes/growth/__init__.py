"""Growth: when a hidden layer needs more units, how many, and with what weights.

Triggers (triggers.py) tell how many units a layer lacks, inits (inits.py, gradients.py) tell with
what weights they start; any of one goes with any of the other. `Hidden` (hidden.py) is what both
see of a channel space, `Seen` (seen.py) what data tells about it, `planted` (plant.py) puts new
units in.
"""
