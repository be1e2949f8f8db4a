"""The networks: AudioCLIP, its ESResNeXt audio tower, their losses, weights and inputs."""
