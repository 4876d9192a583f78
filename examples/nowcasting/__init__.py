"""Precipitation nowcasting with ConvGRUs, as in Shi et al. (2017)."""
