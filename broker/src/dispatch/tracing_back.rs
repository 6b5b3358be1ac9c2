//! From a flow that fails to the shell in which its program was started, for `adit why`: looked at while the program still
//! waits, because afterwards it is gone.

use std::pin::pin;
use std::time::Duration;

use adit_capture::questions::Question;
use tokio::time::timeout;

use super::Dispatcher;
use crate::accepted::Ends;
use crate::attribution::Attributed;
use crate::flow_table::Flow;

/// How long a program that failed may be kept waiting for it.
const PATIENCE: Duration = Duration::from_millis(50);
/// A program that waits longer than this may stop waiting and go.
const SLOW: Duration = Duration::from_millis(100);

impl Dispatcher {
    /// Of a program that is held in connect().
    pub(super) async fn trace_held(&self, question: &Question, flow: &Flow) {
        let (source, destination) = (question.source, question.destination);
        self.trace(flow, self.attribution.exactly(source, destination))
            .await;
    }

    /// Of a program whose connection was accepted, and is still there.
    pub(super) async fn trace_accepted(&self, ends: Ends, flow: &Flow) {
        self.trace(flow, self.attribution.probably(ends)).await;
    }

    /// Awaits `opening`, and looks meanwhile if that takes long.
    pub(super) async fn tracing_if_slow<T>(
        &self,
        question: &Question,
        flow: &Flow,
        opening: impl Future<Output = T>,
    ) -> T {
        let mut opening = pin!(opening);
        if let Ok(opened) = timeout(SLOW, &mut opening).await {
            return opened;
        }
        let tracing = self.trace_held(question, flow);
        tokio::join!(opening, tracing).0
    }

    async fn trace(&self, flow: &Flow, attributed: impl Future<Output = Attributed>) {
        if !flow.is_attributed()
            && let Ok(Attributed::Process(process)) = timeout(PATIENCE, attributed).await
        {
            flow.attributed(process.pid, process.path);
        }
        flow.complete_lineage();
    }
}
