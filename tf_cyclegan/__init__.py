"""Unpaired image-to-image translation: CycleGAN (Zhu et al. 2017) in TensorFlow and Keras 3."""
