"""The network, its loading, its decoding."""

from openvla_ros.model.openvla import OpenVLA

__all__ = ['OpenVLA']
