"""The supervisor, the worker and the processes between them, and the bytes that they exchange."""
