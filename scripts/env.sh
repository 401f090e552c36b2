# Source this (bash or zsh) to use the ROS 2 Jazzy wheels in .venv and the messages built into install/:
#   source scripts/env.sh
#   export OPENVLA_ROS_DISTRO=kilted; source scripts/env.sh    # those of Kilted, in .venv-kilted and install-kilted/
# It replaces what another sourced ROS installation set: the two must not mix.

if [ -n "${BASH_SOURCE:-}" ]; then _openvla_ros_file=${BASH_SOURCE}; else _openvla_ros_file=$0; fi
_openvla_ros_root=$(cd "$(dirname "$_openvla_ros_file")/.." && pwd -P)
export OPENVLA_ROS_DISTRO=${OPENVLA_ROS_DISTRO:-jazzy}
if [ "$OPENVLA_ROS_DISTRO" = jazzy ]; then _openvla_ros_suffix=; else _openvla_ros_suffix=-$OPENVLA_ROS_DISTRO; fi
_openvla_ros_venv=$_openvla_ros_root/.venv$_openvla_ros_suffix
_openvla_ros_prefix=$_openvla_ros_root/install$_openvla_ros_suffix/openvla_ros
_openvla_ros_python=$(ls "$_openvla_ros_venv/lib" 2>/dev/null | grep "^python3\." | head -n 1)

if [ ! -x "$_openvla_ros_venv/bin/python" ] || [ -z "$_openvla_ros_python" ]; then
  echo "openvla_ros: $_openvla_ros_venv holds no Python; run 'make setup' first" >&2
else
  export VIRTUAL_ENV=$_openvla_ros_venv
  case ":$PATH" in
    ":$_openvla_ros_venv/bin:"*) ;;
    *) export PATH=$_openvla_ros_venv/bin:$PATH ;;
  esac
  export AMENT_PREFIX_PATH=$_openvla_ros_prefix:$_openvla_ros_venv
  export CMAKE_PREFIX_PATH=$_openvla_ros_venv
  export PYTHONPATH=$_openvla_ros_root:$_openvla_ros_prefix/lib/$_openvla_ros_python/site-packages
  _openvla_ros_libs=$_openvla_ros_prefix/lib:$_openvla_ros_venv/lib
  for _openvla_ros_dir in "$_openvla_ros_venv/lib/$_openvla_ros_python"/site-packages/ros_*.libs; do
    _openvla_ros_libs=$_openvla_ros_libs:$_openvla_ros_dir
  done
  case ":${LD_LIBRARY_PATH:-}:" in
    ":$_openvla_ros_libs:"*) ;;
    *) export LD_LIBRARY_PATH=$_openvla_ros_libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} ;;
  esac
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1  # the wheels need not start Python twice to set LD_LIBRARY_PATH
  export RMW_IMPLEMENTATION=rmw_fastrtps_cpp
  export ROS_DISTRO=$OPENVLA_ROS_DISTRO ROS_VERSION=2 ROS_PYTHON_VERSION=3
  export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
  # Without it, 640x480 images at best effort hardly ever arrive (see the file).
  if [ "$ROS_DISTRO" = jazzy ]; then
    export FASTRTPS_DEFAULT_PROFILES_FILE=${FASTRTPS_DEFAULT_PROFILES_FILE:-$_openvla_ros_root/config/fastdds_shm.xml}
  else
    export FASTDDS_DEFAULT_PROFILES_FILE=${FASTDDS_DEFAULT_PROFILES_FILE:-$_openvla_ros_root/config/fastdds_shm.xml}
  fi
  unset COLCON_PREFIX_PATH
fi
unset _openvla_ros_file _openvla_ros_root _openvla_ros_suffix _openvla_ros_venv _openvla_ros_prefix _openvla_ros_python _openvla_ros_libs _openvla_ros_dir
