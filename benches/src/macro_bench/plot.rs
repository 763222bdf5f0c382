//! One SVG: a row per case, tidemark's IOPS and CPU time as ratios to each peer, with their intervals.
//!
//! Ratios are drawn on a logarithmic axis, so that half and double are equally far from 1.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::measure::Row;
use tidemark_benches::statistics::Median;

const ROW_HEIGHT: u32 = 22;
const WIDTH: u32 = 1100;
const RANGE: (f64, f64) = (0.1, 10.0);
const QSD_COLOUR: RGBColor = RGBColor(31, 119, 180);
const FIO_COLOUR: RGBColor = RGBColor(214, 120, 20);

/// Draws the plot.
pub fn write_svg(path: &Path, rows: &[Row]) -> Result<()> {
    let height = 90 + ROW_HEIGHT * u32::try_from(rows.len())?;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    draw(&area, rows).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

type Drawing<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Outcome = Result<(), Box<dyn std::error::Error>>;

fn draw(area: &Drawing, rows: &[Row]) -> Outcome {
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(WIDTH * 6 / 10);
    panel(&left, "IOPS, tidemark / peer (right is better)", 230, rows, |row| {
        [row.iops_ratio(&row.qsd), row.iops_ratio(&row.fio)]
    })?;
    panel(&right, "CPU per I/O, tidemark / peer (left is better)", 10, rows, |row| {
        [row.cpu_ratio(&row.qsd), row.cpu_ratio(&row.fio)]
    })?;
    area.present()?;
    Ok(())
}

fn panel(
    area: &Drawing,
    title: &str,
    label_width: u32,
    rows: &[Row],
    ratios: impl Fn(&Row) -> [Option<Median>; 2],
) -> Outcome {
    let count = i32::try_from(rows.len())?;
    let label = |row: &i32| {
        let row = usize::try_from(count - 1 - *row).ok().and_then(|index| rows.get(index));
        row.filter(|_| label_width > 50).map_or_else(String::new, |row| row.case.to_string())
    };
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(30)
        .y_label_area_size(label_width)
        .build_cartesian_2d((RANGE.0..RANGE.1).log_scale(), (0..count).into_segmented())?;
    let segment_label = |value: &SegmentValue<i32>| match value {
        SegmentValue::Exact(row) | SegmentValue::CenterOf(row) => label(row),
        SegmentValue::Last => String::new(),
    };
    chart
        .configure_mesh()
        .y_labels(rows.len())
        .y_label_formatter(&segment_label)
        .x_label_formatter(&|ratio| format!("{ratio}"))
        .disable_y_mesh()
        .draw()?;
    let one = [(1.0, SegmentValue::Exact(0)), (1.0, SegmentValue::Last)];
    chart.draw_series(LineSeries::new(one, BLACK.stroke_width(1)))?;
    for (peer, (name, colour)) in [("qsd", QSD_COLOUR), ("fio", FIO_COLOUR)].into_iter().enumerate() {
        let points = rows.iter().zip(0..).filter_map(|(row, index)| {
            let ratio = ratios(row).get(peer).copied().flatten()?;
            Some((count - 1 - index, ratio))
        });
        let points: Vec<(i32, Median)> = points.collect();
        let at = |row: i32, ratio: f64| (ratio.clamp(RANGE.0, RANGE.1), SegmentValue::CenterOf(row));
        chart.draw_series(points.iter().map(|(row, ratio)| {
            PathElement::new([at(*row, ratio.low), at(*row, ratio.high)], colour.stroke_width(2))
        }))?;
        chart
            .draw_series(points.iter().map(|(row, ratio)| Circle::new(at(*row, ratio.value), 4, colour.filled())))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    chart.configure_series_labels().position(SeriesLabelPosition::LowerRight).border_style(BLACK).draw()?;
    Ok(())
}
