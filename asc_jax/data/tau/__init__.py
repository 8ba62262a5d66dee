"""TAU Urban Acoustic Scenes: download, folder, wav files, taxonomy."""
