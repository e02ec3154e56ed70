"""How parallel every layer is: asked for, searched for, read and written."""
