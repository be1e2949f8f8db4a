"""The networks: AudioCLIP, its ESResNeXt audio tower, their losses, weights and inputs."""

import getpass
import os

# torchvision cannot be imported by a user without a name, as of `docker run --user 12345`: torch names a
# folder after the user.
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = f"user-{os.getuid()}"
