"""Without any data: from the statistics that BatchNorm kept."""
