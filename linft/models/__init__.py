"""Architectures, one a file, and the registry that names them."""

from linft.models.from_flax import from_flax as from_flax
from linft.models.registry import ARCHITECTURES as ARCHITECTURES
from linft.models.registry import create as create
from linft.models.registry import with_options as with_options
