"""Side Adapter Network, SAN (https://arxiv.org/abs/2302.12242): the model, its training and its warm starts.

Reading order: model.py, split_tower.py, side_network.py; then criterion.py, training_data.py, trainer.py, training.py.
warm_start.py, query_projection.py, mask_finder.py and closed_form.py start from CLIPtrase's masks, and unlabelled.py
trains on its label maps.
"""
