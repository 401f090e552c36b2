"""The parameters of policy_node; docs/parameters.md is made from this."""

import dataclasses

from openvla_ros.action_space.dataset_profile import PLAUSIBLE_STEP_M, PLAUSIBLE_STEP_RAD
from openvla_ros.nodes.parameters import parameter
from openvla_ros.observation.image_monitor import ImageLimits
from openvla_ros.policy.inference import GRAPH_MODES
from openvla_ros.safety.robot_frames import RobotFrames, robot_frames

OLDEST_OBSERVATION_S = 10.0
"""No parameter may allow an older image [s]."""


@dataclasses.dataclass(frozen=True)
class PolicyParameters:
    """Parameters of policy_node."""

    # What computes
    unnorm_key: str = parameter(
        '', description='dataset whose statistics and conventions the checkpoint uses; no default'
    )
    checkpoint: str = parameter(
        '', description='folder of the checkpoint, or its id on Hugging Face if already downloaded'
    )
    revision: str = parameter(
        '', description="commit of a checkpoint on Hugging Face; '' for the one already downloaded"
    )
    adapter: str = parameter('', description='folder of a LoRA adapter for the checkpoint')
    device: str = parameter('auto', description="'auto', 'cpu', 'cuda' or 'cuda:N'")
    dtype: str = parameter(
        'auto',
        description='number format of the weights',
        choices=('auto', 'float32', 'bfloat16', 'float16'),
    )
    quantization: str = parameter(
        'auto',
        description="weights in fewer bits: 'none', 'auto', or a scheme such as 'int8' or 'nf4'",
    )
    cuda_graphs: str = parameter(
        'auto',
        description="run the network as CUDA graphs: 'auto' on a CUDA device if their tokens are "
        "those of the plain path, 'on' refuses other devices, 'off' never",
        choices=GRAPH_MODES,
    )
    allow_download: bool = parameter(
        False, description='download the checkpoint from Hugging Face where it is missing'
    )
    num_threads: int = parameter(
        0, description='CPU threads of the model; 0 leaves one core free', lo=0, hi=256
    )
    server_url: str = parameter(
        '', description="inference on a server, such as 'http://gpu-box:8000', instead of here"
    )
    server_timeout_s: float = parameter(
        2.0, description='longest wait for an answer of the server', unit='s', lo=0.05, hi=60.0
    )
    dataset_directory: str = parameter(
        '',
        description="folder of dataset profiles; '' for the one beside adapter or checkpoint, "
        'else the ones of this package',
    )

    # Rate
    rate_hz: float = parameter(
        0.0,
        description='rate of the policy; 0 is the rate of the dataset',
        unit='Hz',
        lo=0.0,
        hi=100.0,
        read_only=False,
    )
    allow_slow: bool = parameter(
        False, description='run although the model cannot keep the rate; the arm will stop and go'
    )
    max_observation_age_s: float = parameter(
        1.0,
        description='oldest image, when its action is published',
        unit='s',
        lo=0.05,
        hi=OLDEST_OBSERVATION_S,
        read_only=False,
    )
    hang_timeout_s: float = parameter(
        5.0,
        description='one inference taking longer ends the node with exit code 3',
        unit='s',
        lo=0.5,
        hi=600.0,
    )

    # Frames
    robot: str = parameter(
        '',
        description='robot profile, the one controller_node has: a name in config/robots, or the '
        'path of a .yaml file; its frames say in which frame an action is meant',
    )
    base_frame: str = parameter(
        '', description="the robot's base frame; '' for the profile's, another name is refused"
    )
    ee_frame: str = parameter(
        '', description="its end-effector frame; '' for the profile's, another name is refused"
    )

    # Camera
    image_transport: str = parameter(
        'raw',
        description='raw: camera/image_raw, compressed: camera/image_raw/compressed (JPEG, PNG)',
        choices=('raw', 'compressed'),
    )
    image_reliability: str = parameter(
        'auto',
        description='QoS of the image subscription; auto follows the camera',
        choices=('auto', 'reliable', 'best_effort'),
    )
    image_timeout_s: float = parameter(
        0.5,
        description='silence of the camera after which nothing is published',
        unit='s',
        lo=0.05,
        hi=10.0,
        read_only=False,
    )
    image_max_age_s: float = parameter(
        0.5,
        description='oldest stamp of an arriving image',
        unit='s',
        lo=0.01,
        hi=10.0,
        read_only=False,
    )
    image_max_ahead_s: float = parameter(
        0.05,
        description='how far the stamp of an arriving image may lie in the future',
        unit='s',
        lo=0.0,
        hi=1.0,
        read_only=False,
    )
    image_frozen_timeout_s: float = parameter(
        1.0,
        description='how long the picture may stay the same while the arm moves; 0 never checks '
        '(a simulated camera has no noise)',
        unit='s',
        lo=0.0,
        hi=60.0,
        read_only=False,
    )
    image_blank_timeout_s: float = parameter(
        1.0,
        description='how long the picture may be black or saturated; 0 never checks',
        unit='s',
        lo=0.0,
        hi=60.0,
        read_only=False,
    )
    image_blank_std: float = parameter(
        2.0,
        description='standard deviation of brightness (0 to 255) below which a picture is blank',
        lo=0.0,
        hi=50.0,
        read_only=False,
    )
    allow_unstamped_images: bool = parameter(
        False, description='take an image without stamp as stamped on arrival'
    )
    expected_image_frame_id: str = parameter(
        '', description="the only frame_id of images that is accepted; '' accepts any"
    )
    lock_image_geometry: bool = parameter(
        False, description='refuse images of another size or encoding than the first'
    )

    # Instruction
    instruction_dwell_s: float = parameter(
        0.5,
        description='shortest time between two changes of the instruction that are acted on',
        unit='s',
        lo=0.0,
        hi=10.0,
    )
    allow_unicode: bool = parameter(
        False, description='accept instructions with letters beyond ASCII'
    )

    # Trust in the model
    stuck_after: int = parameter(
        25,
        description='equal motions in a row while the arm moves, then nothing is published; '
        '0 never checks',
        lo=0,
        hi=10000,
        read_only=False,
    )
    plausible_step_m: float = parameter(
        PLAUSIBLE_STEP_M,
        description='largest displacement of one step the statistics may allow; set it together '
        "with the robot profile's own bound",
        unit='m',
        lo=0.001,
        hi=2.0,
    )
    plausible_step_rad: float = parameter(
        PLAUSIBLE_STEP_RAD,
        description='largest rotation of one step the statistics may allow',
        unit='rad',
        lo=0.001,
        hi=6.3,
    )

    # Reports
    log_period_s: float = parameter(
        10.0, description='time between two lines of figures in the log', unit='s', lo=1.0, hi=3600
    )

    def __post_init__(self) -> None:
        """Refuse values that do not fit together."""
        if 0.0 < self.rate_hz < 0.1:
            raise ValueError(f'rate_hz: got {self.rate_hz}, expected 0 or at least 0.1')
        if self.server_url and self.server_timeout_s >= self.hang_timeout_s:
            raise ValueError(
                f'server_timeout_s: got {self.server_timeout_s}, expected less than '
                f'hang_timeout_s ({self.hang_timeout_s}), after which the node ends'
            )

    def frames(self) -> RobotFrames:
        """Return the robot's frames.

        Raises:
            ConfigError: they are not given, or contradict the profile.
        """
        return robot_frames(self.robot, self.base_frame, self.ee_frame)

    def image_limits(self) -> ImageLimits:
        """Return what the camera is judged by."""
        return ImageLimits(
            timeout_s=self.image_timeout_s,
            max_age_s=self.image_max_age_s,
            max_ahead_s=self.image_max_ahead_s,
            frozen_s=self.image_frozen_timeout_s,
            blank_s=self.image_blank_timeout_s,
            blank_std=self.image_blank_std,
            allow_unstamped=self.allow_unstamped_images,
            expected_frame_id=self.expected_image_frame_id,
            lock_geometry=self.lock_image_geometry,
        )
