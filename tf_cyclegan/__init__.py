"""Unpaired image-to-image translation: CycleGAN (Zhu et al. 2017) in TensorFlow and Keras 3.

Nothing is imported here, so that a script's --help does not wait for TensorFlow. What a user needs:
`cyclegan.CycleGAN`, `generators`, `discriminators`, `layers.InstanceNormalization`,
`data.load_dataset`, `interop.load_generator` and `translate.load_translator`.
"""
