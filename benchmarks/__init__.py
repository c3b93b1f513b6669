"""How long a release takes, beside the floor that no tool can go below; on a real Incus fleet."""
