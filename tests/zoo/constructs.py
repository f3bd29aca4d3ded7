"""All hand-written constructs by name: each is a small network with one thing that is hard."""

from collections.abc import Callable

from tests.zoo.constructs_attention import ATTENTION
from tests.zoo.constructs_blocks import BLOCKS
from tests.zoo.constructs_conv import CONV
from tests.zoo.constructs_interface import INTERFACE
from tests.zoo.constructs_norm import NORM
from tests.zoo.constructs_recurrent import RECURRENT
from tests.zoo.constructs_shape import SHAPE
from tests.zoo.constructs_shared import SHARED
from tests.zoo.constructs_transformer import TRANSFORMER
from tests.zoo.sample import Sample

THEMES = (CONV, BLOCKS, ATTENTION, TRANSFORMER, RECURRENT, SHAPE, NORM, SHARED, INTERFACE)

CONSTRUCTS: dict[str, Callable[[], Sample]] = {
    name: make for theme in THEMES for name, make in theme.items()
}
