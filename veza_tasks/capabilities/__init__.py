"""What a release is made of: the artifact, its installation, rotation, health and the gate."""
