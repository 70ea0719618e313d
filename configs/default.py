"""Every field of a config, once, with its unit and meaning.

Other configs start from `get_config()` and override; the dict is locked, so a misspelt field is an
error with a suggestion. The sizes here are those of the digits demo; see `digits.py` for a run of it,
`folder.py` for your own videos, and `ucf.py`, `hmdb.py`, `k400.py`, `ssv2.py`, `imagenet.py` for published sets.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the locked default config."""
    config = ConfigDict()
    config.seed = 42  # all randomness is a function of this and the step number
    config.method = "local"  # local | joint: no stops between levels | supervised | vicreg | svt | brave | jepa | mae
    config.data = _data()
    config.augmentation = _augmentation()
    config.model = _model()
    config.objective = _objective()
    config.vicreg = _vicreg()
    config.svt = _svt()
    config.brave = _brave()
    config.jepa = _jepa()
    config.mae = _mae()
    config.optimizer = _optimizer()
    config.train = _train()
    config.evaluation = _evaluation()
    config.alarms = _alarms()
    config.checkpoint = _checkpoint()
    config.logging = _logging()
    return config.lock()


def get_action_config() -> ConfigDict:
    """Return the locked config that sets of short action videos start from: ViT-Ti-sized frames at 112x112."""
    config = get_config()
    config.data.update(frame_stride=4, height=112, width=112, resize_margin=1.15)
    config.model.stem.patch_size = 16
    config.model.patch.update(width=192, predictor_hidden=(384,))
    config.model.frame.update(width=192, depth=12, num_heads=3, head_width=64, mlp_width=768)
    config.model.frame.update(predictor_hidden=(384,), scan=True)
    config.model.clip.update(width=256, depth=4, num_heads=4, head_width=64, mlp_width=1024, predictor_hidden=(512,))
    config.model.clip.scan = True
    config.model.compute_dtype = "bfloat16"
    config.optimizer.learning_rate = 5e-4
    config.evaluation.update(schedule="exponential", interval=2.0)
    config.checkpoint.interval_steps = 1000
    return config


def is_smoke(argument: str, path: str) -> bool:
    """Return whether the mini-argument of the config `path` is `smoke`; there is no other one."""
    if argument not in ("", "smoke"):
        raise ValueError(f"{path}:{argument} is unknown; use {path} or {path}:smoke")
    return argument == "smoke"


def shorten(config: ConfigDict, argument: str, path: str) -> ConfigDict:
    """Return an action config, cut down to 20 steps at 64x64 if the mini-argument of `path` is `smoke`."""
    if is_smoke(argument, path):
        config.data.update(height=64, width=64)
        config.model.compute_dtype = "float32"
        config.train.update(batch_size=8, num_epochs=2.0, max_steps=20)
    return config


def _data() -> ConfigDict:
    data = ConfigDict()
    data.name = "digits"  # digits | folder | csv | ucf101 | hmdb51 | kinetics400 | ssv2 | imagenet
    data.root = "data/digits"  # folder that holds the videos and annotations
    data.storage = "raw"  # where frames are read from: raw | frames | hdf5 | array_record | tfds
    data.storage_root = ""  # folder of that storage; "" = data.root
    data.follow_links = False  # also read what links in the folder lead to, outside it; only for folders you trust
    data.split = 1  # official split number, where a data set has several
    data.label = ""  # label set evaluated first, by which `supervised` trains; "" = the data set's own first one
    data.num_frames = 16  # T, frames in one sample
    data.frame_stride = 2  # frames of the video between two frames of a sample ("frequency")
    data.window_step = 4  # frames of the video between the starts of two training windows
    data.max_windows_per_video = 1  # training windows drawn from a video per epoch; 0 = all of them
    data.short_videos = "loop"  # videos shorter than a sample: loop | drop | pad: repeat the last frame, marked
    data.test_views_temporal = 1  # windows of every test video that `evaluate` looks at, scores averaged
    data.test_views_spatial = 1  # crops of each of them along the longer side; 1 = the centre
    data.height = 64  # Y, pixel rows the model sees
    data.width = 64  # X, pixel columns the model sees
    data.resize = "keep"  # keep: frames keep their shape, what is too much is cut off | squeeze: they take that of Y, X
    data.resize_margin = 1.0  # decoded frames are this many times larger than Y, X; random crops use the rest
    data.mean = (0.45, 0.45, 0.45)  # of pixel values in 0-1, subtracted always, in evaluation too
    data.std = (0.225, 0.225, 0.225)  # of pixel values in 0-1
    data.num_workers = -1  # decoding processes; 0 = threads of this process, -1 = cores - 1, at most 8
    data.read_threads = 1  # decoding threads per process
    data.prefetch_batches = 4  # batches decoded ahead of the step
    data.cache_gib = 0.0  # decoded windows that each decoding process keeps in memory, GiB; for small sets
    data.video_timeout_seconds = 30.0  # a video that takes longer to decode counts as bad
    data.manifest = ""  # what the command `scan` wrote: a file | "" = manifest.jsonl in data.root if it is there | none
    data.max_bad_fraction = 0.01  # share of bad videos above which a run ends with code 2; 0 = at the first one
    return data


def _augmentation() -> ConfigDict:
    augmentation = ConfigDict()  # on the device, the same draw for all frames of a video
    augmentation.resized_crop_scale = (0.75, 0.95)  # share of the area a random crop keeps; (1, 1) = off
    augmentation.resized_crop_ratio = (0.75, 1.3333)  # width / height of the crop
    augmentation.flip_probability = 0.5  # mirror left-right; 0 where the label says left or right
    augmentation.color_jitter_probability = 0.3  # of a change of the four below
    augmentation.brightness = 0.4  # largest change, as a share
    augmentation.contrast = 0.4  # largest change, as a share
    augmentation.saturation = 0.4  # largest change, as a share
    augmentation.hue = 0.1  # largest change, as a share of the colour circle
    augmentation.greyscale_probability = 0.15  # of taking all colour away
    augmentation.blur_probability = 0.3  # of blurring the frames
    augmentation.blur_sigma = (0.1, 2.0)  # smallest and largest width of the blur, pixels
    return augmentation


def _level(width: int, depth: int, num_heads: int) -> ConfigDict:
    level = ConfigDict()
    level.width = width  # D, size of a token
    level.depth = depth  # transformer layers
    level.num_heads = num_heads  # H, attention heads
    level.head_width = width // num_heads  # K, size of a query, key or value of one head
    level.mlp_width = 4 * width  # M, hidden width of the MLP in each layer
    level.qkv_bias = False  # a bias in the map to queries, keys and values; timm's image models have one
    level.norm_epsilon = 1e-5  # added to the variance in the layer norms of the transformer; timm's image models: 1e-6
    level.dropout = 0.0  # probability, in attention output, MLP and positions
    level.causal = False  # causal mask, no class token, a state token at every position
    level.output_norm = "batch"  # of the token: batch (the original's) | layer | none
    level.predictor_hidden = (2 * width,)  # hidden widths of each predictor of this level; () = one linear map
    level.predictor_hidden_norm = "batch"  # after each hidden map of the predictors: batch | layer | none
    level.predictor_norm = "none"  # of the prediction: none | layer | batch (the original's)
    level.remat = False  # recompute this level in the backward pass to save memory
    level.groups_at_once = 0  # frames or clips of a video that are encoded at once, twice, to save memory; 0 = all
    level.scan = False  # one compiled layer for all layers of the level: quicker compile at depth
    return level


def _model() -> ConfigDict:
    model = ConfigDict()
    model.encoder = "hierarchy"  # hierarchy | s3d: the whole network of that name, one level `clip` of 1024 features
    model.hierarchy = "patch-frame-clip-sequence"  # patch-frame | frame-clip[-sequence] | patch-frame-clip[-sequence]
    model.num_clips = 4  # C, clips per sequence, at least 2; counts only where the hierarchy has `sequence`
    model.compute_dtype = "float32"  # float32 | bfloat16, parameters stay float32 | float64, needs JAX_ENABLE_X64=1
    model.attention = "xla"  # xla | cudnn: on NVIDIA cards in bfloat16, XLA for other shapes; not tried yet
    model.initial_weights = ""  # .safetensors of an import or an export to start from; "" = everything is fresh
    model.stem = ConfigDict()
    # linear: patches of pixels | conv: S3D's first blocks, patches of their map (Y/4, X/4) | s3d: all (T/8, Y/32, X/32)
    model.stem.kind = "linear"  # linear | conv | s3d
    model.stem.patch_size = 8  # pixels (linear) or cells of the convolved map (conv, s3d), square
    model.stem.width = 64  # channels inside the conv stem
    model.stem.channels = 64  # channels of the convolved map that patches are cut from
    model.stem.norm_momentum = 0.9  # share of the old BatchNorm statistics kept per step, in the conv stem and in S3D
    model.stem.trainable = True  # False: the convolutions of the stem stay as they are, statistics too
    model.patch = ConfigDict()
    model.patch.width = 64  # D, size of a token
    model.patch.output_norm = "batch"  # of the patch token: batch | layer | none
    model.patch.predictor_hidden = (128,)  # hidden widths of each predictor of this level; () = one linear map
    model.patch.predictor_hidden_norm = "batch"  # after each hidden map of the predictors: batch | layer | none
    model.patch.predictor_norm = "none"  # of the prediction: none | layer | batch (the original's)
    model.frame = _level(width=64, depth=2, num_heads=4)
    model.clip = _level(width=96, depth=2, num_heads=4)
    model.sequence = _level(width=128, depth=2, num_heads=4)
    return model


def _objective() -> ConfigDict:
    objective = ConfigDict()
    # contrastive: choose the target among candidates; the others hit it: mse, smooth_l1, cosine, cross_entropy, vicreg
    objective.distance = "contrastive"  # contrastive | mse | smooth_l1 | cosine | cross_entropy | vicreg
    objective.targets = "stopped"  # stopped | attached: the original's leak, for parity and the study
    objective.side = True  # predict the same level at another time
    objective.std_divisor = 3.0  # side: std of the drawn time distance = max(p, N-p) / this
    objective.contrastive_temperature = 0.1  # contrastive: divides cosines
    objective.video_candidates_weight = 1.0  # contrastive: loss of choosing among tokens of the same video
    objective.batch_candidates_weight = 0.0  # contrastive: loss of choosing among tokens of the whole batch
    objective.batch_candidates = 512  # contrastive: tokens of the batch that compete, where their weight is not 0
    objective.place_candidates = 0  # contrastive: other places of a frame that compete for patches; of single images 16
    objective.patch_targets = "change"  # where patches are asked for: change: where the video changes | uniform
    objective.patch_weight = 16.0  # multiplies the loss of predicting patches from frames: it is what knows appearance
    objective.least_distance = 1  # contrastive: what is nearer in time to the target is no candidate, in tokens
    objective.prediction_temperature = 1.0  # cross_entropy: divides predictions before the softmax
    objective.target_temperature = 0.5  # cross_entropy: divides targets before the softmax
    objective.cross_entropy_epsilon = 1e-6  # cross_entropy: added to the predicted probabilities in the logarithm
    objective.cosine_scale = 1.0  # cosine: multiplies 1 - similarity
    objective.invariance_weight = 25.0  # vicreg distance: prediction to target
    objective.variance_weight = 25.0  # vicreg distance and regulariser
    objective.covariance_weight = 1.0  # vicreg distance and regulariser
    objective.variance_epsilon = 1e-4  # vicreg distance and regulariser: added to the variance in the root
    objective.regularizer = "vicreg"  # of each level's own token before its norm: vicreg | none
    objective.regularizer_weight = 0.02  # multiplies the regulariser
    objective.edge_weights = ConfigDict()  # loss weight by source level and relation
    for level in ("patch", "frame", "clip", "sequence"):
        weights = objective.edge_weights[level] = ConfigDict()
        weights.up = 1.0  # predicts the level above
        weights.down = 1.0  # predicts the level below
        weights.side = 1.0  # predicts its own level at another time
    objective.weights_to_uniform = False  # move the edge weights linearly to 1 over the training
    return objective


def _vicreg() -> ConfigDict:
    vicreg = ConfigDict()  # method vicreg: two windows of a video, embedded alike (Bardes et al. 2022)
    vicreg.min_distance = 0  # least frames of the video between the starts of the windows
    vicreg.max_distance = 0  # most; 0 = any, so that with both 0 the windows are drawn apart
    vicreg.projector_layers = 3  # linear maps of the projector, norm and activation between them
    vicreg.projector_expansion = 4.0  # its width over that of the token
    return vicreg


def _svt() -> ConfigDict:
    svt = ConfigDict()  # method svt: a teacher's prototypes of global views (Ranasinghe et al. 2022; Caron et al. 2021)
    svt.num_local = 8  # local views beside two global ones, which are as large as data says
    svt.local_frames = 8  # frames of a local view
    svt.local_stride = 2  # frames of the video between two of them
    svt.local_size = 0.43  # rows and columns of a local view over those of a global one, cut to whole patches
    svt.global_area = (0.4, 1.0)  # share of the frame that a global view shows
    svt.local_area = (0.05, 0.4)  # share of the frame that a local view shows
    svt.hidden = 2048  # width of the head's hidden layers
    svt.bottleneck = 256  # width of what is compared with the prototypes
    svt.prototypes = 65536  # how many
    svt.student_temperature = 0.1  # divides the student's cosines
    svt.teacher_temperature = (0.04, 0.07)  # divides the teacher's: at the start, and after the warm-up
    svt.teacher_warmup = 0.3  # share of the run in which it rises
    svt.momentum = 0.996  # share of the teacher that is kept per step; rises to 1 by a cosine
    svt.center_momentum = 0.9  # of the mean that is taken off the teacher's cosines, share kept per step
    return svt


def _brave() -> ConfigDict:
    brave = ConfigDict()  # method brave: narrow predicts broad and back (Recasens et al. 2021)
    brave.narrow_stride = 2  # frames of the video between two of the narrow view, which has data.num_frames
    brave.broad_frames = 64  # frames of the broad view
    brave.broad_stride = 4  # frames of the video between two of them
    brave.broad_size = 0.5  # its rows and columns over the narrow view's, cut to whole patches
    brave.hidden = 4096  # width of the hidden layer of projectors and predictors
    brave.width = 256  # of what is predicted
    return brave


def _jepa() -> ConfigDict:
    jepa = ConfigDict()  # method jepa: a teacher's latents of masked patches (Bardes et al. 2024)
    jepa.mask_ratio = 0.9  # share of the patches that are masked, in all frames alike
    jepa.mask_blocks = (8, 2)  # blocks of each mask of a video
    jepa.mask_areas = (0.15, 0.7)  # share of the frame that a block of each covers
    jepa.predictor = _filler(width=384, depth=12, num_heads=12)
    jepa.momentum = 0.998  # share of the teacher that is kept per step; rises to 1 linearly
    return jepa


def _mae() -> ConfigDict:
    mae = ConfigDict()  # method mae: pixels of masked patches (Tong et al. 2022)
    mae.mask_ratio = 0.9  # share of the patches that are masked, in all frames alike
    mae.decoder = _filler(width=192, depth=4, num_heads=3)
    return mae


def _filler(width: int, depth: int, num_heads: int) -> ConfigDict:
    filler = ConfigDict()  # the transformer that fills in what was masked
    filler.width = width  # D, size of a token
    filler.depth = depth  # layers
    filler.num_heads = num_heads  # H, attention heads
    return filler


def _optimizer() -> ConfigDict:
    optimizer = ConfigDict()
    optimizer.name = "adamw"  # sgd | adamw | lars | lamb | adadelta
    optimizer.learning_rate = 1e-3  # peak, of every level
    optimizer.weight_decay = 1e-2  # share taken off matrices, per step and unit of learning rate
    optimizer.momentum = 0.9  # of past gradients, share kept per step; sgd and lars
    optimizer.nesterov = True  # Nesterov's momentum; sgd and lars
    optimizer.b1 = 0.9  # share of the mean gradient kept per step; adamw and lamb
    optimizer.b2 = 0.95  # share of the mean squared gradient kept per step; adamw and lamb
    optimizer.clip_norm = 1.0  # largest gradient norm per label (a level, or its predictors); 0 = off
    optimizer.predictors = "rate"  # with: as their level | rate: own learning rate | own: own optimizer too
    optimizer.predictor_rate_multiplier = 3.0  # learning rate of predictors over that of their level
    optimizer.predictor_name = "adamw"  # optimizer of the predictors when `predictors` is `own`
    optimizer.single = False  # one optimizer for all parameters (clipping is then global)
    optimizer.schedule = "cosine"  # cosine | step | constant
    optimizer.warmup_epochs = 1.0  # epochs over which the learning rate rises to its peak
    optimizer.final_rate = 1e-5  # cosine: learning rate at the end
    optimizer.step_epochs = 1.0  # step: epochs between two decays
    optimizer.step_decay = 0.8  # step: factor
    optimizer.accumulation_steps = 1  # batches whose gradients are averaged into one update
    optimizer.alternating_percent = 0.0  # levels of even and odd index take turns, each for this % of an epoch; 0 = off
    optimizer.frozen = ()  # labels that never train, e.g. ("frame", "frame/predictors")
    optimizer.start_epochs = ConfigDict()  # staged start, by level
    for level in ("patch", "frame", "clip", "sequence"):
        optimizer.start_epochs[level] = 0.0  # epochs before it begins to train
    optimizer.max_bad_updates = 10  # consecutive NaN or Inf updates of one label before the run ends with code 3
    return optimizer


def _train() -> ConfigDict:
    train = ConfigDict()
    train.batch_size = 32  # videos per step over all devices
    train.num_epochs = 20.0  # passes over the training videos; may be a fraction
    train.max_steps = 0  # stop after this many steps; 0 = when the epochs are over
    train.fsdp = False  # shard parameters and optimizer state over the devices as well
    train.fsdp_min_size = 65536  # smallest array that is sharded, elements
    train.data_axis = "data"  # name of the mesh axis
    train.compilation_cache = "auto"  # folder that keeps compiled programs | auto: in the user's cache folder | none
    train.deterministic = False  # on a GPU train by kernels that give the same bits every time; slower
    return train


def _evaluation() -> ConfigDict:
    evaluation = ConfigDict()
    evaluation.schedule = "exponential"  # linear: every `interval` epochs | exponential: 1, i, i*i, ...
    evaluation.interval = 2.0  # epochs, or the growth factor
    evaluation.batch_size = 64  # videos per batch over all devices while levels are evaluated
    evaluation.neighbours = 20  # k of the weighted kNN
    evaluation.temperature = 0.07  # of the kNN's weights exp(similarity / temperature)
    evaluation.probe_steps = 400  # updates of the MLP probe, 512 examples each; 0 = no MLP probe
    evaluation.reversed_pairs = ()  # classes that are each other reversed in time, e.g. ("Right/Left", "Down/Up")
    evaluation.supervised_ceiling = ""  # results.json of a supervised run, whose accuracies are shown beside; "" = none
    evaluation.protocols = ()  # what `evaluate` asks when training is done, e.g. ("linear", "attentive")
    evaluation.monitor_tokens = 1024  # tokens per level that the collapse monitors look at
    return evaluation


def _alarms() -> ConfigDict:
    alarms = ConfigDict()
    alarms.action = "warn"  # when a level collapses: warn | stop: with code 4 | rollback: go back, at half the rates
    alarms.max_rollbacks = 3  # rollback: how often, before it is stop
    return alarms


def _checkpoint() -> ConfigDict:
    checkpoint = ConfigDict()
    checkpoint.interval_steps = 200  # steps between two checkpoints; also saved at every evaluation and at the end
    checkpoint.keep_latest = 3  # newest checkpoints that stay
    checkpoint.keep_best = 2  # checkpoints with the highest `best_metric` that stay besides
    checkpoint.best_metric = ""  # e.g. "mlp/clip/motion/top1"; "" = linear, of the top level and the first label set
    return checkpoint


def _logging() -> ConfigDict:
    logging = ConfigDict()
    logging.interval_steps = 10  # steps between two records of metrics
    logging.tensorboard = True  # write TensorBoard's files to tb/ in the run folder
    logging.wandb = False  # needs the `wandb` extra; WANDB_MODE=offline works without a key
    logging.wandb_project = "hvt-jax"  # name of the W&B project that runs go to
    return logging
