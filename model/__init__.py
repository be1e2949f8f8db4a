"""The networks: AudioCLIP, its ESResNeXt audio tower, their losses, weights and inputs."""

import getpass
import os

# torch names a folder after the user, so importing torchvision fails for users without a name, as in
# `docker run --user 12345`.
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = f"user-{os.getuid()}"
