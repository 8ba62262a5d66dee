"""What a program asks of the machine: replicas, processes, memory, files, locks."""
