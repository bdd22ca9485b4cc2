"""The commands of the original AppPot (2011-2013), with its options, files and behaviour."""
