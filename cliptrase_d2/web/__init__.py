"""A page in the browser: command.py serves it, layout.py draws it, and the rest, which knows no Gradio, answers it."""
