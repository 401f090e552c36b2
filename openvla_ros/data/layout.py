"""Where everything lies in a LeRobotDataset v3.0 folder, and what its columns are called."""

from pathlib import Path

CODEBASE_VERSION = 'v3.0'
CHUNK = 1000
INFO = Path('meta/info.json')
STATS = Path('meta/stats.json')
TASKS = Path('meta/tasks.parquet')
EPISODES = Path('meta/episodes/chunk-000/file-000.parquet')
#: Not LeRobot's, which passes over it: what the numbers of the actions mean.
PROFILE = Path('meta/dataset_profile.yaml')
DATA_PATH = 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'

IMAGE_PREFIX = 'observation.images.'
STATE = 'observation.state'
ACTION = 'action'
NO_OP = 'action.no_op'
STATE_NAMES = ('x', 'y', 'z', 'rx', 'ry', 'rz', 'gripper')
ACTION_NAMES = {
    'euler_xyz': ('x', 'y', 'z', 'roll', 'pitch', 'yaw', 'gripper'),
    'rotvec': STATE_NAMES,
}


def data_file(episode: int) -> Path:
    """Where this package writes an episode: a file for each."""
    return Path(DATA_PATH.format(chunk_index=episode // CHUNK, file_index=episode % CHUNK))
