//! The plots of docs/performance.md: small SVG files. Latency and throughput stand on logarithmic axes, time does not.

use std::ops::Range;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

/// What is drawn as one line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// How something went over time: one plot of its own, under the others of its kind.
#[derive(Debug, Clone)]
pub(crate) struct Course {
    pub(crate) name: String,
    /// Seconds from the start, and milliseconds.
    pub(crate) points: Vec<(f64, f64)>,
    /// When something was done, in seconds from the start.
    pub(crate) marks: Vec<f64>,
}

/// Told apart by those who do not see all colours, too (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(90, 90, 90),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
];
const MARKS: RGBColor = RGBColor(213, 94, 0);
const SIZE: (u32, u32) = (640, 360);
/// How high one of several plots is at the least that stand one below the other.
const COURSE_HEIGHT: u32 = 150;

/// Calls a second by calls in flight.
pub(crate) fn throughput(path: &Path, title: &str, lines: &[Line]) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    draw(&root, title, "calls a second", &[("", lines, 2)], SeriesLabelPosition::LowerRight)
        .map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))
}

/// Microseconds by calls in flight; the p99 are thin.
pub(crate) fn latency(path: &Path, title: &str, p50: &[Line], p99: &[Line]) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let sets = [(" p50", p50, 2), (" p99", p99, 1)];
    draw(&root, title, "µs", &sets, SeriesLabelPosition::UpperLeft)
        .map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))
}

/// Milliseconds over seconds, one below the other on the same scale; marks are thin lines from top to bottom.
pub(crate) fn course(path: &Path, unit: &str, courses: &[Course]) -> Result<()> {
    let size = (SIZE.0, SIZE.1.max(COURSE_HEIGHT * u32::try_from(courses.len())?));
    let root = SVGBackend::new(path, size).into_drawing_area();
    draw_course(&root, unit, courses).map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))
}

/// Calls without an answer by seconds.
pub(crate) fn unanswered(path: &Path, title: &str, lines: &[Line]) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    draw_unanswered(&root, title, lines).map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws sets of lines: what is added to their names, the lines, and how thick they are. `names` is where their names stand.
fn draw(
    root: &Area<'_>,
    title: &str,
    unit: &str,
    sets: &[(&str, &[Line], u32)],
    names: SeriesLabelPosition,
) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let points = || sets.iter().flat_map(|(_, lines, _)| lines.iter()).flat_map(|line| &line.points);
    let mut chart = ChartBuilder::on(root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(
            span(points().map(|point| point.0)).log_scale(),
            span(points().map(|point| point.1)).log_scale(),
        )?;
    let whole = |value: &f64| format!("{value:.0}");
    chart
        .configure_mesh()
        .x_desc("calls in flight")
        .y_desc(unit)
        .x_labels(6)
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .light_line_style(WHITE)
        .draw()?;
    for (suffix, lines, width) in sets {
        for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(*width);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(2 + width / 2))?
                .label(format!("{}{suffix}", line.name))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        }
    }
    chart
        .configure_series_labels()
        .position(names)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    root.present()?;
    Ok(())
}

fn draw_course(root: &Area<'_>, unit: &str, courses: &[Course]) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let values = span(courses.iter().flat_map(|course| &course.points).map(|point| point.1));
    // Whole decades: there is no room for more labels than those.
    let values = 10_f64.powf(values.start.log10().floor())..10_f64.powf(values.end.log10().ceil());
    for (area, course) in root.split_evenly((courses.len(), 1)).iter().zip(courses) {
        let end = course.points.iter().map(|point| point.0).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(&course.name, ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..end, values.clone().log_scale())?;
        let whole = |value: &f64| format!("{value:.0}");
        let brief = |value: &f64| format!("{value}");
        chart
            .configure_mesh()
            .x_desc("seconds")
            .y_desc(unit)
            .y_labels(3)
            .x_label_formatter(&whole)
            .y_label_formatter(&brief)
            .light_line_style(WHITE)
            .draw()?;
        for mark in &course.marks {
            let line = [(*mark, values.start), (*mark, values.end)];
            chart.draw_series(LineSeries::new(line, MARKS.stroke_width(1)))?;
        }
        chart.draw_series(LineSeries::new(course.points.iter().copied(), COLOURS[3].stroke_width(1)))?;
    }
    root.present()?;
    Ok(())
}

fn draw_unanswered(root: &Area<'_>, title: &str, lines: &[Line]) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let points = || lines.iter().flat_map(|line| &line.points);
    let (end, most) = points().fold((0.0_f64, 0.0_f64), |most, point| (most.0.max(point.0), most.1.max(point.1)));
    let mut chart = ChartBuilder::on(root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, 0.0..most * 1.05)?;
    let whole = |value: &f64| format!("{value:.0}");
    chart
        .configure_mesh()
        .x_desc("seconds since the kill")
        .y_desc("calls without an answer")
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .light_line_style(WHITE)
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    root.present()?;
    Ok(())
}

/// From a little below the smallest to a little above the largest.
fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    low / 1.3..high * 1.3
}
