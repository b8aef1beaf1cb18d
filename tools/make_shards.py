"""Pack Cityscapes, or your own images and masks, into tar shards for training: python tools/make_shards.py --help"""

from fastseg.commands.pack import main

if __name__ == "__main__":
    main()
