"""The networks: AudioCLIP, its ESResNeXt audio tower, their losses, weights and inputs."""

import getpass
import os

# torch names a cache folder after the user, so importing torchvision fails if the user has no name, as in
# `docker run --user 12345`.
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = f"user-{os.getuid()}"
