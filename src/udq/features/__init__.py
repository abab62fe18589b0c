"""From pixels to regions and their pooled features: backbones, region proposers, pooling and runtimes."""
