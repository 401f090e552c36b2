"""OpenVLA for ROS 2. Nothing lives here: rosidl's generated package may replace this file."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
