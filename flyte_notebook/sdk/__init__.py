"""Everything that touches the Flyte SDK."""
