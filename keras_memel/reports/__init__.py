"""Reports of `analyze`: arrays, files, figures and the neuron page."""
