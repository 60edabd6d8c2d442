"""What feature maps are like on real images: spectra, variation between images, sensitivity of the output."""

from kdguard.runtime.analysis.analyse import analyse
from kdguard.runtime.analysis.layer_analysis import Analysis, LayerAnalysis

__all__ = ["Analysis", "LayerAnalysis", "analyse"]
