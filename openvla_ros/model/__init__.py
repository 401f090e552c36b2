"""The network, its loading, its decoding: ``from openvla_ros.model import OpenVLA``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openvla_ros.model.openvla import OpenVLA

__all__ = ['OpenVLA']


def __getattr__(name: str) -> Any:
    # On first use: a benchmark of one part need not import the tokenizer and the hub.
    if name != 'OpenVLA':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from openvla_ros.model.openvla import OpenVLA

    return OpenVLA
