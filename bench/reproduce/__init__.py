"""Published experiments at sizes that finish in minutes on two cores; each file is one command."""
