"""The RViz view of this package for one robot: its fixed frame and the topics it shows."""

import tempfile
from pathlib import Path
from typing import Any

import yaml

from openvla_ros.core.strict_config import load_yaml

_TOPIC_KEYS = ('Topic', 'Description Topic')


def viewed_topics(view: Path) -> tuple[str, ...]:
    """Return the topics the displays of a view subscribe to, without the leading slash."""
    displays = load_yaml(view)['Visualization Manager']['Displays']
    topics = [
        display[key]['Value'] for display in displays for key in _TOPIC_KEYS if key in display
    ]
    return tuple(topic.removeprefix('/') for topic in topics)


def view_for_robot(view: Path, base_frame: str) -> Path:
    """Return the view with the robot's base frame as its fixed frame.

    RViz' option ``--fixed-frame`` would make it ask at the end whether to save the change.

    Returns:
        ``view`` itself where it fits, else a temporary file.
    """
    content: dict[str, Any] = load_yaml(view)
    options = content['Visualization Manager']['Global Options']
    if options['Fixed Frame'] == base_frame:
        return view
    options['Fixed Frame'] = base_frame
    with tempfile.NamedTemporaryFile(
        'w', prefix='openvla_ros_', suffix='.rviz', delete=False, encoding='utf-8'
    ) as file:
        yaml.safe_dump(content, file, sort_keys=False)
    return Path(file.name)
