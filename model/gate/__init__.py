"""Whether a new version may take the old one's place: both on the same images, rule by rule, with every number kept."""
