"""From files to the inputs of the model.

Reading order: custom.py describes a data set, files.py and register.py list it, images.py and labels.py
read it, geometry.py, protocol.py and mapper.py bring it to size, loader.py hands it out. builtin.py knows data sets by
name; emoji_scenes/ draws them.
"""
