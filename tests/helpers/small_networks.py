"""Networks of examples/paper/nowcasting, as small as there can be."""

import dataclasses

from scripts import example

networks = example("paper.nowcasting.model")

TINY = networks.Network(
    down=((2, 4, 2), (3, 4, 2), (4, 3, 2)),
    up=((4, 4, 2), (3, 4, 2), (2, 4, 2)),
    states=(3, 4, 5),
    recurrent=(3, 3, 3),
    size=(8, 16),
    frames=(2, 2),
)
SMALL = dataclasses.replace(TINY, size=(16, 16), residual=True)
# The network for runs takes a third of the time to compile.
FLAT = dataclasses.replace(
    SMALL, down=((3, 4, 2),), up=((3, 4, 2),), states=(4,), recurrent=(3,)
)
