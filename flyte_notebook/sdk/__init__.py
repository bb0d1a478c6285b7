"""All code that uses the Flyte SDK."""
